"""The machines: which rank this process is, and starting ranks on one machine."""
