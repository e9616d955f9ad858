"""HTTP: the routes of the service, who may use them, and what describes them."""
