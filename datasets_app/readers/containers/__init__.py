"""Tables inside other files: workbooks, Parquet, archives and JSON arrays, unpacked once into plain text.

Everything behind the unpacking reads text with line numbers. Only a capped child (`datasets_app.capped`) may unpack.
"""

from datasets_app.readers.containers.unpacking import container_of, unpack

__all__ = ["container_of", "unpack"]
