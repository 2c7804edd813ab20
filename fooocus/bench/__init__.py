"""How fast this program is on this computer, measured: ``python launch.py bench``. Read ``run.py`` first."""
