"""Model files before any network is loaded: which are wanted, which are there, how the missing ones come.

Everything here runs in the page process and is free of torch. Read `catalogue` (what is wanted), `scan` (what is
there), `download` (how one file comes, whatever happens to the line), `fetch` (several of them, for the page) and
`verdict` (what this computer can do with them); `report` puts it all into words.
"""
