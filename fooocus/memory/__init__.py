"""What goes where: how much memory a picture needs (`need`), what is therefore kept where (`plan`), and whether several
pictures are better made part by part (`turns`).

Plain numbers in, plain values out. The worker acts on the plan (`fooocus.loading.memory`), the page and `doctor` speak
from the same one (`fooocus.models.verdict`).
"""
