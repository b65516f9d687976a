"""Why a prediction is what it is: contributions of atoms, and measured neighbours with what differs."""
