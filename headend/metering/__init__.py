"""The metering server: takes readings from concentrators, once each, and keeps them with unit and exact value."""
