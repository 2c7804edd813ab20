"""How Pocket, the miniature SDXL that comes with the program, is made. The program itself never imports this folder."""
