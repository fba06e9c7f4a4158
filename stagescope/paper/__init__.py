"""The paper's figures, its claims and what decides them: `stagescope paper`."""
