"""Trackers of experiments outside of the portal: what runs measure is copied to the one that a team has named."""
