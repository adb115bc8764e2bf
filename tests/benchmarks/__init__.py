"""Speed, against a peer in the same run: `make bench`. A ratio is only ever of two things timed in turn."""
