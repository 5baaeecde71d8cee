# The command line: what it prints, and what it refuses. Called with SOURCE, WORK, CHECK and PREDICT.
include("${CMAKE_CURRENT_LIST_DIR}/bundle.cmake")
file(REMOVE_RECURSE "${WORK}/files")
execute_process(COMMAND "${CHECK}" make "${WORK}/files" RESULT_VARIABLE code)
if(NOT code EQUAL 0)
  message(FATAL_ERROR "cannot make the files")
endif()

function(run)  # sets code, out and err
  execute_process(COMMAND "${PREDICT}" ${ARGN} WORKING_DIRECTORY "${WORK}/files"
                  RESULT_VARIABLE code OUTPUT_VARIABLE out ERROR_VARIABLE err)
  foreach(name code out err)
    set(${name} "${${name}}" PARENT_SCOPE)
  endforeach()
endfunction()

function(expect code_wanted stream pattern)  # arguments of the program follow
  run(${ARGN})
  if(NOT code EQUAL code_wanted OR NOT "${${stream}}" MATCHES "${pattern}")
    message(SEND_ERROR "predict ${ARGN}: exit code ${code}, not ${code_wanted}, or ${stream} without '${pattern}'\n${out}${err}")
  endif()
endfunction()

function(refused pattern)  # one line on stderr, nothing on stdout, exit code 1
  run(${ARGN})
  if(NOT code EQUAL 1 OR NOT out STREQUAL "" OR NOT err MATCHES "^predict: [^\n]*${pattern}[^\n]*\n$")
    message(SEND_ERROR "predict ${ARGN}: no refusal with '${pattern}' (exit code ${code})\n${out}${err}")
  endif()
endfunction()

set(with --bundle "${BUNDLE}")
refused("missing.jpg: no such file" ${with} missing.jpg)
refused("nothing: a folder" ${with} nothing)
refused("empty.jpg: an empty file" ${with} empty.jpg)
refused("text.jpg: not a JPEG or PNG" ${with} text.jpg)
refused("cut.jpg: damaged JPEG" ${with} cut.jpg)
refused("cmyk.jpg: a JPEG of 4 channels" ${with} cmyk.jpg)
refused("huge.jpg: 65000 x 65000 pixels" ${with} huge.jpg)
refused("good.jpg: 40 x 30 pixels, more than 1000" --bundle small good.jpg)
refused("absent: no bundle there" --bundle absent good.jpg)
refused("nothing: no bundle there" --bundle nothing good.jpg)
refused("old: a bundle without pixels.onnx: export it again" --bundle old good.jpg)
refused("newer: pixels.onnx is of format 'fastai_deploy/2'" --bundle newer good.jpg)
refused("mask: a segmentation model" --bundle mask good.jpg)
refused("image: an? image_to_image model" --bundle image good.jpg)

expect(2 err "no option --nonsense" --nonsense good.jpg)
expect(2 err "no pictures")
expect(2 err "--bundle needs a folder" good.jpg --bundle)
expect(0 out "^usage: predict" --help)

# a bad picture does not stop the others; spaces and umlauts in names
expect(1 out "^good.jpg: [^\n]+\ngrüß e.png: [^\n]+\n$" ${with} good.jpg missing.jpg "grüß e.png")

set(names "grüß e.png")
if(UNIX)
  list(APPEND names "say \"hi\".jpg")
  configure_file("${WORK}/files/good.jpg" "${WORK}/files/say \"hi\".jpg" COPYONLY)
endif()
foreach(name IN LISTS names)
  run(${with} --json "${name}")
  string(JSON path ERROR_VARIABLE wrong GET "${out}" path)
  if(wrong OR NOT path STREQUAL name)
    message(SEND_ERROR "--json: ${wrong}\n${out}${err}")
  endif()
endforeach()

expect(0 out "^$" --decode ppm good.jpg "grüß e.png")
file(SIZE "${WORK}/files/ppm/good.ppm" size)
if(NOT size EQUAL 3613)  # "P6\n40 30\n255\n" and 40 * 30 * 3 bytes
  message(SEND_ERROR "--decode: good.ppm has ${size} bytes")
endif()
