"""LocalStack's init hook: makes the topic, the queues, the subscription; harmless to repeat.

LocalStack executes this file inside its own process, where only runpy makes a `__main__`.
"""

import os
import runpy

os.environ["AWS_ENDPOINT_URL"] = "http://127.0.0.1:4566"
try:
    runpy.run_path("/opt/flash-promos/provision.py", run_name="__main__")
finally:
    # The process is LocalStack's own, which must not call itself by this variable.
    del os.environ["AWS_ENDPOINT_URL"]
