"""The steps of the kit, one program each."""
