"""Scans from and to a PACS: a spool that survives a crash, C-STORE and STOW-RS into it, C-GET and WADO-RS out of a PACS."""
