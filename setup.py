from setuptools import find_packages, setup

setup(name='repvit-mm', version='0.1.0', packages=find_packages(include=['repvit_mm', 'repvit_mm.*']))
