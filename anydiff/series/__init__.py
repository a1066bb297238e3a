"""Series: forecasts and their scores."""
