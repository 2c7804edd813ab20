"""All pictures of the outputs folder: found, searched, marked, shown small, deleted; nothing here is torch's.

The files are the truth. The database beside them is only an index and may be thrown away; what a person has said about
a picture (a favourite) lies in a file of its own. Read `library` first: it joins the parts and has the one thread.
"""
