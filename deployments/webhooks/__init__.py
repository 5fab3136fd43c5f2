"""Telling other systems what became of jobs and batches: endpoints, an outbox of deliveries, and their sending."""
