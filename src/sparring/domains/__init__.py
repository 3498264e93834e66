"""What differs from one kind of input to another: its threats, losses, goals and metrics. No attack loop lives here."""
