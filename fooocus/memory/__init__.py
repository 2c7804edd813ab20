"""What goes where: how much memory a picture needs (`need`) and what is therefore kept where (`plan`).

Plain numbers in, plain values out. The worker acts on the plan (`fooocus.loading.memory`), the page and `doctor` speak
from the same one (`fooocus.models.verdict`).
"""
