"""What the example processes: a pause of so many seconds, or an error."""

import time


def procesar_item(item):
    if item == "malo":
        raise ValueError("un item malo")
    time.sleep(item)
