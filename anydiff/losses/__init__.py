"""What training minimises: weightings, densities of times, conditions."""
