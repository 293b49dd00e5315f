"""The version of the contracts between the core and its plugins."""

#: Raised when a contract changes so that a plugin written for the former one would not work.
PLUGIN_API = 1
