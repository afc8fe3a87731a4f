"""A file that somebody edited on a host → the change of the inventory from which ogen renders that edit.

Pure but for reading the project's own files: changes of the inventory's text are proposed from what differs,
and tried by rendering; only what renders the edit is kept.
"""
