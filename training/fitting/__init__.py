"""How a member is trained; committee, quality, experiments and backend may
import it."""
