"""What people look at: costs, checks, inspection, evaluation, report, export."""
