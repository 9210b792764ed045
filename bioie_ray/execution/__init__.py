"""Running a step's units of work, in this process or on Ray: same units, same bytes."""
