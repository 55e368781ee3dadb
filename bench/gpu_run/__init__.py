"""Everything that wants a GPU: the parts, the driver that runs them within a time, and the CPU in the GPU's place for a rehearsal."""
