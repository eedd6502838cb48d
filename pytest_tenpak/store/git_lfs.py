"""What git-lfs leaves in place of a file that was not fetched."""

#: The beginning of such a pointer.
POINTER = b"version https://git-lfs.github.com/"
