"""For Faust's own command: `faust -A topologies.scheduler worker`.

`streamsched run` starts the same app without Faust's command line.
"""

from streamsched.engine.app import create_app
from streamsched.engine.runners import runners_factory
from streamsched.engine.worker import use_uvloop
from streamsched.settings import load_settings

use_uvloop()
settings = load_settings()
app = create_app(settings, runners_factory(settings))
