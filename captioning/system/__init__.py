"""The command line, files, processes, devices and signals: what a program stands on."""
