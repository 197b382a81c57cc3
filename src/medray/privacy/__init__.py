"""Who a patient is must not leave the hospital: pseudonyms. No I/O beyond reading the key."""
