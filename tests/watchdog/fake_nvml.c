/* The four functions of NVML that are used, with a counter in a file: "ENERGY POWER", millijoules and milliwatts; "-" where it has none. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int number(int place, unsigned long long *value) {
    char energy[32], power[32];
    FILE *file = fopen(getenv("FAKE_NVML"), "r");
    if (!file) return 999;
    int found = fscanf(file, "%31s %31s", energy, power);
    fclose(file);
    const char *text = place ? power : energy;
    if (found != 2) return 999;
    if (text[0] == '-') return 3; /* NVML_ERROR_NOT_SUPPORTED */
    *value = strtoull(text, NULL, 10);
    return 0;
}

int nvmlInit_v2(void) { return 0; }

int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
    *device = (void *)0x7fff12345678; /* more than 32 bits, as pointers are */
    return strcmp(uuid, "GPU-one") ? 6 : 0;
}

int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *energy) {
    return device == (void *)0x7fff12345678 ? number(0, energy) : 2;
}

int nvmlDeviceGetPowerUsage(void *device, unsigned int *power) {
    unsigned long long value;
    int status = device == (void *)0x7fff12345678 ? number(1, &value) : 2;
    if (!status) *power = (unsigned int)value;
    return status;
}
