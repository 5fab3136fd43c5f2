"""How values look on a page: numbers as words, and series as shapes. Pure functions without HTML."""
