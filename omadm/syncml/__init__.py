"""The SyncML 1.2 representation, as used by OMA DM 1.2: message values, and their XML and WBXML codecs."""
