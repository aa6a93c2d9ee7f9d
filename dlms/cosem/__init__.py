"""COSEM objects: codes, interface classes, times, profiles (IEC 62056-6-1, -6-2)."""
