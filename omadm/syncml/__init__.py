"""SyncML 1.2 representation as OMA DM 1.2 uses it: message values, and their XML and WBXML codecs."""
