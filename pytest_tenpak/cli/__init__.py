"""The subcommands of ``tenpak``: each module declares its arguments and carries itself out.

A command module has a docstring whose first line is its help, and ``run(arguments, config) -> int``, which
gives the exit code: 0, or 1 where what was looked for is not as it should be. It may have
``add_arguments(parser)``, and ``PYTEST_ARGUMENTS = True`` where arguments it does not know go to pytest;
``PYTEST_OPTIONS`` are options that pytest always gets. With ``COLLECTS = True`` the suite is collected
first; where that fails, pytest's words are all that comes.
``config`` is pytest's, of the directory the command runs in: it knows the rootdir and the ini settings.
A TenpakError ends a command as pytest's usage errors do, with exit code 4.
"""
