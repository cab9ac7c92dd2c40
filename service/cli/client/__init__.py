"""The commands of people who send and fetch files, on top of the Python client `assay`.

`put` and `get` do the work, `ls`, `info`, `rm`, `share` and `login` are small. `accounts` knows whose key goes to which server, `names`
what a name from the server may become here, `display` what of it may reach a terminal, `exit_codes` what went wrong and the exit status.
Nothing here imports the server: these commands start fast, and work where there is no database.
"""

from typing import Final

STANDARD_STREAM: Final = "\0-"
"""What `-` becomes before the arguments are read: cyclopts takes it for an option. No argument can hold a NUL."""
