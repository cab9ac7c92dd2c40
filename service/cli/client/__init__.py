"""The commands that send and fetch files, built on the Python client `assay`.

`put` and `get` do the main work. `ls`, `info`, `rm`, `share` and `login` are small. `accounts`
chooses the key for a server, `names` checks the names that a server sends, `display` escapes text
for the terminal, and `exit_codes` maps errors to exit statuses. The package does not import the
server, so that these commands start fast and need no database.
"""

from typing import Final

STANDARD_STREAM: Final = "\0-"
"""The replacement for `-`, which Cyclopts would read as an option.

No argument can contain a NUL.
"""
