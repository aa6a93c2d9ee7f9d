"""The metering server: receives readings from concentrators, exactly once, and stores them with unit and exact
value."""
