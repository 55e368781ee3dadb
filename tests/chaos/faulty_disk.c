/* A disk that fails, waits or hangs where a test says so: preloaded into a process (LD_PRELOAD), it stands before write, fsync, rename
 * and mkdir.
 *
 * The file that the variable FAULTY_DISK names is read at every call. Each line holds a call, a part of a path (with a '$' at its end:
 * the end of the path) and what happens there: EIO or ENOSPC (the call fails), sleep=SECONDS, hold=FILE (waits while FILE exists),
 * flip (write puts another last byte on the disk) or flip=FILE (the same once, and FILE is removed).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#define FLIP -1

static int is_meant(const char *path, char *part)
{
    size_t length = strlen(part), whole = strlen(path);
    if (part[length - 1] != '$')
        return strstr(path, part) != NULL;
    return whole >= --length && strncmp(path + whole - length, part, length) == 0;
}

/* The error that a call on a path has to fail with, or 0, after it has waited as long as it has to. */
static int fate(const char *call, const char *path)
{
    const char *name = getenv("FAULTY_DISK");
    FILE *rules = name ? fopen(name, "re") : NULL;
    char of[16], part[256], action[512];
    int error = 0;
    while (rules && !error && fscanf(rules, "%15s %255s %511s", of, part, action) == 3) {
        if (strcmp(of, call) != 0 || !is_meant(path, part))
            continue;
        if (strncmp(action, "sleep=", 6) == 0)
            usleep((useconds_t)(atof(action + 6) * 1e6));
        else if (strncmp(action, "hold=", 5) == 0)
            while (access(action + 5, F_OK) == 0)
                usleep(10000);
        else if (strcmp(action, "flip") == 0 || (strncmp(action, "flip=", 5) == 0 && unlink(action + 5) == 0))
            error = FLIP;
        else if (strncmp(action, "flip=", 5) != 0)
            error = strcmp(action, "EIO") == 0 ? EIO : ENOSPC;
    }
    if (rules)
        fclose(rules);
    return error;
}

static int fate_of_descriptor(const char *call, int descriptor)
{
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0 || path[0] != '/')
        return 0;
    path[length] = 0;
    return fate(call, path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAIL_OR(error, name, ...) ((error) ? (errno = (error), -1) : REAL(name)(__VA_ARGS__))

ssize_t write(int descriptor, const void *data, size_t size)
{
    int saved = errno, error = fate_of_descriptor("write", descriptor);
    errno = saved;
    if (error == FLIP && size) {
        char *flipped = malloc(size);
        memcpy(flipped, data, size);
        flipped[size - 1] ^= 1;
        ssize_t written = REAL(write)(descriptor, flipped, size);
        free(flipped);
        return written;
    }
    return FAIL_OR(error, write, descriptor, data, size);
}

int fsync(int descriptor)
{
    int error = fate_of_descriptor("fsync", descriptor);
    return FAIL_OR(error, fsync, descriptor);
}

int rename(const char *from, const char *to)
{
    int error = fate("rename", from);
    return FAIL_OR(error, rename, from, to);
}

int mkdir(const char *path, mode_t mode)
{
    int error = fate("mkdir", path);
    return FAIL_OR(error, mkdir, path, mode);
}
