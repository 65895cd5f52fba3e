"""Which frames of long recordings are worth a look: those that differ, those like a crop, those with something new."""
