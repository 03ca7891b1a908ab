"""The `kilonova` command: one file for each command, loaded when it is used.

Read in this order: tree (the commands), state (state directories, and which clouds run), credentials (clouds.yaml and the openrc files),
choices and settle (options of `up`, from the command line and files), up and detach (how a cloud comes up), process (the running
cloud), forget (how nothing is left of one), rest (asking a running cloud as its administrator), then the commands.

Commands start quickly because they import late: whatever needs `kilonova.app` (all services, 0.3 s) imports it inside a function.
"""
