"""When a round starts and what its stages do; insight, actions, jobs and web may import it."""
