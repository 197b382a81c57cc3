"""From files to a cohort: scan, read, commit; what can't be read becomes a quarantine row."""
