"""The GPU kit: everything that a GPU can prove, in one command. See README.md in this folder."""
