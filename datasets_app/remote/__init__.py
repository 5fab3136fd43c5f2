"""Data sets that lie elsewhere: buckets, the web, hubs. One adapter for each, all of them behind `portal.outbound`.

An adapter lists the files of a source (`RemoteFile`) and fetches one of them to the disk; `gather` does that for all
of them and makes one file of each split. From there on they are imported like uploads.
"""
