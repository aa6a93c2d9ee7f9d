# mypy: ignore-errors
"""What gurux-dlms says of every interface class: a line `class version attribute tag` each, and of every unit."""

import inspect

from gurux_dlms import objects
from gurux_dlms.enums import Unit
from gurux_dlms.objects.GXDLMSObject import GXDLMSObject

for name in sorted(dir(objects)):
    kind = getattr(objects, name)
    if not (inspect.isclass(kind) and issubclass(kind, GXDLMSObject) and kind is not GXDLMSObject):
        continue
    made = kind()
    for number in range(2, made.getAttributeCount() + 1):
        print("type", int(made.objectType), made.version, number, int(made.getDataType(number)))
    print("methods", int(made.objectType), made.version, made.getMethodCount())
for unit in Unit:
    print("unit", int(unit))
