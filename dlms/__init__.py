"""DLMS/COSEM (IEC 62056): data links, application layer, interface classes, client and meter side."""
