@echo off
rem Start the program by double-click: find a fitting Python, or get one after one keypress, and run launch.py with it.
rem Arguments are passed on and so is the exit code. FOOOCUS_NO_PAUSE=1 never waits for a key.
rem No block in parentheses holds a path: a folder such as "Fooocus (1)" would end it early.
setlocal
set "HERE=%~dp0"
set "OWN=%HERE%python-embedded"
if defined CI set "FOOOCUS_NO_PAUSE=1"
set "PYTHON="
if exist "%HERE%launch.py" goto unpacked
echo launch.py is not beside run.bat. Unpack the whole ZIP first: right-click it and choose "Extract All".
set "CODE=2"
goto wait

:unpacked
call :try "%OWN%\python.exe"
call :try "%HERE%python\python.exe"
call :try py -3.13
call :try py -3.12
call :try py -3.14
call :try py -3.11
call :try python
call :try python3
if defined PYTHON goto start

echo Python 3.11 to 3.14 is needed, and none was found on this computer.
echo Python 3.13 can be fetched now, about 30 MB, into this folder:
echo   "%OWN%"
if defined FOOOCUS_NO_PAUSE goto no_python
echo Press any key to do so, or close this window.
pause >nul

call winget --version >nul 2>nul
if errorlevel 1 goto from_python_org
echo Installing Python with winget ...
call winget install --exact --id Python.Python.3.13 --source winget --scope user --silent --location "%OWN%" --accept-package-agreements --accept-source-agreements
call :try "%OWN%\python.exe"
call :try py -3.13
call :try "%LOCALAPPDATA%\Programs\Python\Python313\python.exe"
if defined PYTHON goto start

:from_python_org
rem The installer, because the embeddable package has neither venv nor pip. It installs for this user only and touches
rem neither PATH nor file types. Its SHA-256 is the one that python.org and winget's manifest of 3.13.15 publish.
set "VERSION=3.13.15"
set "SHA256=edec09c4853aeae9ac36efb8c9f95b6b8e2fee65eee56d9767a8b7c69c574403"
set "SETUP=%TEMP%\python-%VERSION%-amd64.exe"
echo Fetching Python %VERSION% from python.org ...
call curl --fail --location --output "%SETUP%" https://www.python.org/ftp/python/%VERSION%/python-%VERSION%-amd64.exe
if errorlevel 1 goto no_download
set "RIGHT="
for /f "skip=1 tokens=*" %%H in ('certutil -hashfile "%SETUP%" SHA256') do if /i "%%H"=="%SHA256%" set "RIGHT=1"
if not defined RIGHT goto wrong_file
echo Installing ...
call "%SETUP%" /quiet InstallAllUsers=0 TargetDir="%OWN%" PrependPath=0 Include_launcher=0 AssociateFiles=0 Shortcuts=0 Include_doc=0 Include_test=0 Include_tcltk=0
del "%SETUP%"
call :try "%OWN%\python.exe"
if defined PYTHON goto start
echo The installer of Python did not succeed.
goto no_python

:start
%CALL% %PYTHON% "%HERE%launch.py" %*
set "CODE=%ERRORLEVEL%"
if "%CODE%"=="0" exit /b 0
echo.
echo It ended with code %CODE%; the reason is above.
goto wait

:no_download
echo python.org could not be reached.
goto no_python

:wrong_file
del "%SETUP%"
echo The file that came is not the one python.org publishes, so it was deleted.

:no_python
echo Install Python 3.13 from https://www.python.org/downloads/ and start run.bat again.
set "CODE=2"

:wait
if not defined FOOOCUS_NO_PAUSE pause
exit /b %CODE%

rem :try COMMAND - set PYTHON if the command runs a fitting Python. It is asked, because the Python of the Windows Store
rem may be a stub that only prints an advertisement. CALL is set where the command is a batch file, as pyenv's is.
:try
if defined PYTHON exit /b
call %* -c "import sys; sys.exit(sys.maxsize < 2**32 or not (3, 11) <= sys.version_info[:2] <= (3, 14))" >nul 2>nul
if errorlevel 1 exit /b
set PYTHON=%*
set "CALL="
for %%B in ("%~1.bat") do if not "%%~$PATH:B"=="" set "CALL=call"
exit /b
