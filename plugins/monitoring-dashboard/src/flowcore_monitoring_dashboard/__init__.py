"""``flowcore dashboard``: runs of flowcore in a web browser, from the database that its monitoring writes.

Rule of this package: it reads and never writes; all that a page needs is served from here.
"""
