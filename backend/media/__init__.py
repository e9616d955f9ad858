"""Media of tasks: fetched through one disk cache, safely, and decoded as browsers show it."""
