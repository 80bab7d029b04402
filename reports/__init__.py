"""From evaluation records and training logs to the table, the figures and the page. Imports no torch."""
